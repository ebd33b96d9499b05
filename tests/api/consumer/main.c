#include <nibble/nibble.h>
#include <stdio.h>

int main(void)
{
    uint32_t count = 0;
    if (nib_devices_list(NULL, 0, &count, NULL) != NIB_OK || count == 0)
        return 1;
    printf("nibble %s, %u devices\n", nib_version(), (unsigned)count);
    return 0;
}
